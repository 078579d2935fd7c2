"""The live page and the JSON endpoint of `--mode=serve`."""
