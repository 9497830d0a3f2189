"""Keys that are made here are not kept."""

import pytest


@pytest.fixture(autouse=True)
def _keys_apart(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
