// Nothing of it is needed here: printing goes to the host.
#pragma once

#include "aie.hpp"
