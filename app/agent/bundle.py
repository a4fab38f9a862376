"""The agent as one file, for machines on which the service is not installed.

    python3 agent.zip http API_URL RUN_ID ATTEMPT DIRECTORY     (the claim code on stdin)

It holds the source of this package and nothing else, so any Python from 3.10 runs it.
"""

import io
import os
import zipfile

_MAIN = "import sys\nfrom agent.main import main\nmain(sys.argv[1:])\n"
_EPOCH = (2020, 1, 1, 0, 0, 0)


def make() -> bytes:
    """Return the zip file; of the same source always the same bytes."""
    folder = os.path.dirname(os.path.abspath(__file__))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _MAIN)
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as file:
                    bundle.writestr(zipfile.ZipInfo(f"agent/{name}", _EPOCH), file.read())
    return content.getvalue()
