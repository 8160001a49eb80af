"""The C++ kernel: finding the library, describing calls to it, and every binding."""
