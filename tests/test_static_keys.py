"""Keys as the source text shows them are those that the imported dataclasses have."""

import pytest

from jepa.config import COMMANDS, choice_keys, config_class
from jepa.fields import describe_keys
from jepa.static_keys import UnsettledError, static_keys


@pytest.mark.parametrize("name", COMMANDS)
def test_the_text_and_the_classes_agree(name):
    command = COMMANDS[name]
    cls = config_class(command)
    found = {key.name: key for key in static_keys(command.module, command.config)}
    expected = {key: (default, meaning) for key, default, meaning in describe_keys(cls)}
    assert list(found) == list(expected)
    for key, (default, meaning) in expected.items():
        if key in choice_keys(cls):
            assert found[key].open
        else:
            assert (found[key].default, found[key].meaning) == (default, meaning)


def test_what_the_text_does_not_settle_says_so():
    with pytest.raises(UnsettledError):
        static_keys("jepa.pretrain", "NoSuchConfig")
