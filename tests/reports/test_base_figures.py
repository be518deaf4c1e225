"""Pictures hold what their records say."""

from types import SimpleNamespace

import matplotlib.pyplot as plt

from dsmoe_eval.reports import base_figures


def test_the_spread_shows_every_gain(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        base_figures, "save", lambda figure, path: (drawn.append(figure), path.touch())
    )
    paired = SimpleNamespace(delta=0.1, ci95=(0.0, 0.2), n=50)
    row = SimpleNamespace(
        arm=SimpleNamespace(target="math", variant="contrast", target_result=paired),
        gains=SimpleNamespace(gains=(0.05, 0.15, 0.15)),
        wordings=SimpleNamespace(
            base_range=0.03, wordings=[SimpleNamespace(gain=gain) for gain in (0.1, -0.02)]
        ),
    )
    base_figures.spread([row], tmp_path / "spread.png")
    (axis,) = drawn[0].axes
    shown = [list(line.get_xdata()) for line in axis.get_lines()]
    assert [0.0, 20.0] in shown
    assert [5.0, 15.0, 15.0] in shown
    assert [10.0, -2.0] in shown
    assert [text.get_text() for text in axis.get_yticklabels()] == ["math (n = 50)"]
    plt.close(drawn[0])
