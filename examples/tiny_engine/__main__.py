"""`python -m examples.tiny_engine`; what processes start with lies in `demo`, which they import."""

from .demo import main

if __name__ == "__main__":
    raise SystemExit(main())
