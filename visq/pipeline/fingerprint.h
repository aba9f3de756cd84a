// Which model a checkpoint is, as a short text that does not take reading it.
#pragma once
#include <string>

#include "visq/io/checkpoint.h"

namespace visq {

/// SHA-1, in hexadecimal, of the configuration and of name, type, shape and some bytes of every tensor (256
/// of its middle). The same for a model whose tensors are split into files in another way; another one after
/// training, or when a key of config.json has changed.
/// Tells models apart by mistake of their user, not of an attacker.
std::string fingerprint(const Checkpoint& checkpoint);

}  // namespace visq
