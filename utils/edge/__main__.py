import sys

from utils.edge.program import main

if __name__ == "__main__":
    sys.exit(main())
