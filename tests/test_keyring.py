"""Keys: sealing, signing, rotation."""

import stat
import time

import pytest

from kbatch_server.keyring import BadKey, Keyring

OLD, NEW = "o" * 32, "n" * 32


def test_what_is_sealed_is_not_readable_and_opens_again():
    keyring = Keyring([OLD])
    sealed = keyring.seal({"PASSWORD": "hunter2"})
    assert b"hunter2" not in sealed
    assert keyring.unseal(sealed) == {"PASSWORD": "hunter2"}


def test_a_rotated_keyring_opens_and_verifies_what_the_old_one_made():
    old, rotated = Keyring([OLD]), Keyring([NEW, OLD])
    assert rotated.unseal(old.seal([1])) == [1]
    assert rotated.verify(old.sign("x", purpose="code"), purpose="code", max_age_seconds=60) == "x"
    with pytest.raises(BadKey):
        old.unseal(rotated.seal([1]))
    assert old.verify(rotated.sign("x", purpose="code"), purpose="code", max_age_seconds=60) is None


def test_a_signature_is_good_for_its_purpose_and_time_only():
    keyring = Keyring([OLD])
    signed = keyring.sign("x", purpose="code")
    assert keyring.verify(signed, purpose="code", max_age_seconds=60) == "x"
    assert keyring.verify(signed, purpose="results", max_age_seconds=60) is None
    assert keyring.verify(signed, purpose="code", max_age_seconds=-1) is None
    assert keyring.verify(signed[:-2] + "AA", purpose="code", max_age_seconds=60) is None


def test_a_key_file_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys"
    sealed = Keyring.from_file(path).seal("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keyring.from_file(path).unseal(sealed) == "x"


def test_a_short_key_is_refused_with_what_to_do():
    with pytest.raises(BadKey, match="openssl rand"):
        Keyring(["short"])


def test_a_clock_that_is_set_back_does_no_harm_to_what_was_signed(monkeypatch):
    keyring = Keyring([NEW])
    signed = keyring.sign({"job": "a"}, purpose="code")
    now = time.time()
    for moved, value in ((-7200, {"job": "a"}), (50, {"job": "a"}), (70, None)):
        monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
        assert keyring.verify(signed, purpose="code", max_age_seconds=60) == value
