"""The command `tcm-bench`, from its first moment on."""

from tcm_bench.process import leave_on_ctrl_c, raise_on_ctrl_c


def main() -> None:
    """Run the command line."""
    leave_on_ctrl_c("interrupted")  # before the imports, which take a second

    from tcm_bench.cli.app import app

    raise_on_ctrl_c()
    app()
