"""What the machine that runs the tests may have that none of them is about.

It must take nothing away that a test could miss: a test of a strict umask or of a full disk makes its own.
"""

import os
import tempfile

# Others, such as the compiler and the agent, take the place for scratch files that Python finds to have room.
os.environ["TMPDIR"] = tempfile.gettempdir()

# Some tests' files are for other users to read.
os.umask(0o022)
