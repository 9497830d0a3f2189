"""The command `sscct`.

- `app.app`: the command with all that it can do; `python -m sscct_lib.cli` needs no `sscct` on the path.
- `app.run_shard`: the per-scan results of one shard of the manifest.
- `options`: arguments that commands share, and errors told in one line.
"""
