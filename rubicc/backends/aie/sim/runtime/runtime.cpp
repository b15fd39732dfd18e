// The whole runtime as one unit: one compilation instead of seven.
#include "build.cpp"
#include "check.cpp"
#include "describe.cpp"
#include "machine.cpp"
#include "parts.cpp"
#include "resolve.cpp"
#include "world.cpp"
