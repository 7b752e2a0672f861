"""The option table, by `-o` and by file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs import config, options
from keyvaultfs.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

WORDS = st.text(
    st.characters(codec="ascii", exclude_characters="\x7f", min_codepoint=33), min_size=1, max_size=20
)


def quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace('"', '\\"')


@given(client_id=WORDS, ttl=st.integers(1, 10**6), mode=st.integers(0, 0o777), decode=st.booleans())
def test_options_survive_the_way_through_a_string(
    client_id: str, ttl: int, mode: int, *, decode: bool
) -> None:
    text = f"client-id={quoted(client_id)},ttl={ttl},mode={mode:04o},decode={'yes' if decode else 'no'}"
    found = options.settings(options.parse([text]).own)
    assert (found.client_id, found.ttl, found.mode, found.decode) == (client_id, float(ttl), mode, decode)


@given(st.lists(st.text(max_size=30)))
def test_any_text_is_options_or_a_mistake(texts: list[str]) -> None:
    try:
        options.parse(texts)
    except UsageError as exc:
        assert str(exc)  # noqa: PT017 - either is right


def test_generic_options_of_fstab_are_accepted_and_contexts_passed_on() -> None:
    text = "_netdev,nofail,noauto,user,defaults,ro,x-systemd.automount,ttl=2m"
    text += ',context="system_u:object_r:tmp_t:s0:c1,c2"'
    found = options.parse([text])
    assert found.own == {"ttl": "2m"}
    assert found.generic == ("context=system_u:object_r:tmp_t:s0:c1,c2",)
    assert found.notes == ()
    assert options.settings(found.own).ttl == 120


def test_rw_mounts_read_only_with_a_note() -> None:
    assert "read-only" in options.parse(["rw"]).notes[0]


@pytest.mark.parametrize(
    ("wrong", "near"), [("tll=3", "ttl"), ("max-stal=3", "max_stale"), ("nofial", "nofail")]
)
def test_an_unknown_option_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}'"):
        options.parse([wrong])


def test_a_value_is_split_at_the_first_equals_sign() -> None:
    assert options.parse(["client_id=a=b"]).own == {"client_id": "a=b"}


def test_a_file_says_the_same_as_a_string(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text(
        'vault = "v-1"\nttl = 90\nmode = "0440"\ndecode = true\ninclude = ["pg-*", "app-?"]\nmax_cache = "1M"\n'
    )
    found = config.load(str(file))
    by_string = options.parse(["ttl=90,mode=0440,decode,include=pg-*:app-?,max_cache=1M"])
    assert options.settings(found.options) == options.settings(by_string.own)


@given(st.binary(max_size=200))
def test_any_file_is_a_configuration_or_mistakes(body: bytes) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kv.toml"
        file.write_bytes(body)
        try:
            config.load(str(file))
        except UsageError as exc:
            assert str(file) in str(exc)  # noqa: PT017 - either is right


def test_every_option_has_a_line_of_help_and_a_default_that_its_own_parser_could_have_made() -> None:
    for option in options.OPTIONS:
        assert option.help
        assert getattr(options.Settings(), option.name) == option.default
