// What tests of errors share.
#pragma once
#include <string>

#include "visq/core/error.h"

namespace visq {

/// The message of the Error that `action` throws; empty when it throws none.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace visq
