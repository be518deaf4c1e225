"""Takes the screenshots that are kept in `reports/screens/`: `python tests/screens.py PAGE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from browser import launched

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (1280, 390)


def main() -> None:
    """The ranking, the forest plot and an item of a leaderboard's page, wide and narrow."""
    page, to = Path(sys.argv[1]).resolve(), ROOT / "reports" / "screens"
    to.mkdir(parents=True, exist_ok=True)
    with launched() as browser:
        for width in WIDTHS:
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.goto(page.as_uri())
            tab.locator("section h2").first.evaluate("heading => heading.scrollIntoView()")
            tab.screenshot(path=to / f"table-{width}.png")
            tab.locator("figure.forest").first.screenshot(path=to / f"forest-{width}.png")
            _open_item(tab)
            tab.screenshot(path=to / f"item-{width}.png")
            tab.close()


def _open_item(tab: Any) -> None:
    """The first item that some variant gained."""
    tab.locator("#explorer").scroll_into_view_if_needed()
    tab.locator("#explorer-list a").first.wait_for()
    arms = tab.locator("#explorer-arm option").all_inner_texts()
    own = [arm for arm in arms if arm.startswith("contrast on")]
    tab.locator("#explorer-arm").select_option(own[0])
    tab.locator("#explorer-show").select_option("gained")
    tab.locator("#explorer-list a").first.click()
    tab.locator(".answer").first.wait_for()


if __name__ == "__main__":
    main()
