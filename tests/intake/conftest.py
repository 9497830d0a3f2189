"""Keys that are made here are not kept."""

import pytest


@pytest.fixture(autouse=True)
def _keys_apart(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
