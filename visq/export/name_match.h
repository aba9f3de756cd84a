// How names of modules are matched: as engines do it, with bounds that their own matchers lack.
#pragma once
#include <string>

namespace visq {

/// As Python's fnmatch: * ? [seq] [!seq].
bool glob_matches(const std::string& glob, const std::string& name);
/// As Python's re.match, or re.fullmatch. @throws Error when it is no expression, is longer than 1000
/// characters, or takes too many steps
bool expression_matches(const std::string& expression, const std::string& name, bool to_the_end = false);

}  // namespace visq
