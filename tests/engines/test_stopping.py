"""When generation ends."""

import pytest
import torch

from dsmoe_eval.engines.stopping import StopAtStrings


class Letters:
    """A token for each letter; 0 and 27 are special and say nothing."""

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        assert len(rows)  # transformers' own decodes no rows to one text
        return ["".join(chr(96 + t) for t in row if 0 < t < 27) for row in rows.tolist()]


def tokens(*texts):
    return torch.tensor([[ord(letter) - 96 for letter in text] for text in texts])


def test_each_text_stops_when_its_stop_string_is_whole_and_stays_stopped():
    stop = StopAtStrings(Letters(), ["xyz", "q"], prompt=2)
    steps = tokens("qqaxyzaa", "qqaaqaaa", "qqxyaaaa", "xyzaaaaa")
    seen = [stop(steps[:, :end], None).tolist() for end in range(3, 9)]
    stopped = [[row[text] for row in seen] for text in range(4)]
    assert stopped == [
        [False, False, False, True, True, True],
        [False, False, True, True, True, True],
        [False] * 6,
        [False] * 6,  # the string began in the prompt
    ]


def test_a_tail_that_only_looks_like_a_stop_string_is_not_one():
    """A tokenizer that tidies the beginning of what it decodes may find there what is not."""

    class Tidy(Letters):
        def batch_decode(self, rows, skip_special_tokens):
            texts = super().batch_decode(rows, skip_special_tokens)
            return [text[:3].replace("s", "") + text[3:] for text in texts]

    stop = StopAtStrings(Tidy(), ["ab"], prompt=0)
    assert stop(tokens("ccccasb"), None).tolist() == [False]


@pytest.mark.parametrize(("stop", "tail"), [("a", 2), ("é", 3), ("</s>", 5)])
def test_the_tail_holds_the_longest_stop_string(stop, tail):
    assert StopAtStrings(Letters(), ["a", stop], 0).tail == tail
