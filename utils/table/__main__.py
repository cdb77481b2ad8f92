from utils.system.errors import packages_needed

if __name__ == "__main__":
    with packages_needed("python -m utils.table"):
        from utils.table.program import main

        main()
