// aie_api together with the kernel's side of ADF.
#pragma once

#include <adf.h>

#include "aie.hpp"
