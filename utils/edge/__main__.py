import sys

from utils.system.errors import packages_needed

if __name__ == "__main__":
    with packages_needed("python -m utils.edge", "numpy constriction"):
        from utils.edge.program import main
    sys.exit(main())
