from utils.table.program import main

if __name__ == "__main__":
    main()
