"""Configurations of runs, shipped with the package; `demo.yaml` is what `amplify run` takes by default."""
