"""The README's session: what it shows can be missed."""

import pytest

from chaos.session import README, blocks, missing

SHOWN = ["a ... is gone", "...", "same: weights ..."]


def test_what_is_shown_is_found_in_order() -> None:
    printed = ["noise", "a  tcp://x is   gone", "more", "same: weights 12"]
    assert missing(SHOWN, printed) is None
    assert missing(SHOWN, printed[::-1]) == "same: weights ..."
    assert missing(SHOWN, printed[1:3]) == "same: weights ..."
    assert missing(SHOWN, ["b tcp://x is gone", "same: weights 12"]) == "a ... is gone"


def test_the_readme_has_commands_and_output() -> None:
    commands, shown = blocks(README.read_text())
    assert "deepstrata verify runs/killed runs/whole" in commands
    assert shown.splitlines()[-1].startswith("same: weights")
    with pytest.raises(ValueError, match="expected a bash block and a text block"):
        blocks("## The promise, in a terminal\n\n```bash\n```\n")
