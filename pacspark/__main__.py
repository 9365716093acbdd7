"""``python -m pacspark``, and the script that ``spark-submit`` runs."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command line; ``--entry-point`` prints the path of a script for ``spark-submit``."""
    if sys.argv[1:] == ["--entry-point"]:
        print(Path(__file__).resolve())  # noqa: T201 -- the answer
        return 0
    from pacspark.cli import main as run

    return run()


if __name__ == "__main__":
    if not __package__:  # run as a script, whose folder would shadow other packages' names
        sys.path[:] = [
            path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent
        ]
    sys.exit(main())
