"""Sizes in a configuration: bytes or text with a unit, never None, never less than the minimum."""

from __future__ import annotations

import pytest
from traitlets import HasTraits, TraitError

from kbatch_server.app import CONFIGURABLES
from kbatch_server.bytesize import ByteSize
from kbatch_server.launchers.local.launcher import LocalProcessJobLauncher
from kbatch_server.storage.file import FileStorage


class Part(HasTraits):
    size = ByteSize(2**20, min=2**12)


@pytest.mark.parametrize(("value", "size"), [(4096, 4096), ("4K", 4096), ("1.5G", 3 * 2**29), ("2T", 2**41)])
def test_a_size_is_bytes_or_text_with_a_unit(value, size):
    assert Part(size=value).size == size


@pytest.mark.parametrize("value", [None, "", "4", "x", "4X", "nanG", "infG", [], 4095, "-1G", float("inf")])
def test_what_is_no_size_or_too_small_is_refused_with_the_name_of_the_setting(value):
    with pytest.raises(TraitError, match="size"):
        Part(size=value)


def test_every_setting_in_bytes_takes_a_unit():
    for each in (*CONFIGURABLES, FileStorage, LocalProcessJobLauncher):
        for name, trait in each.class_traits(config=True).items():
            if "bytes" in name:
                assert isinstance(trait, ByteSize), f"{each.__name__}.{name}"
                assert trait.min >= 0
