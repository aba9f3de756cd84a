#include "visq/inputs/base64.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

/// RFC 4648, section 10.
TEST(Base64, BytesAreReadFourCharactersAtATime) {
  EXPECT_EQ(from_base64(""), "");
  EXPECT_EQ(from_base64("Zg=="), "f");
  EXPECT_EQ(from_base64("Zm8="), "fo");
  EXPECT_EQ(from_base64("Zm9v"), "foo");
  EXPECT_EQ(from_base64("Zm9vYmFy"), "foobar");
  EXPECT_EQ(from_base64("/+8="), "\xFF\xEF");
}

TEST(Base64, MalformedTextGivesNothing) {
  for (const char* text : {"Zg=", "Zg", "Z===", "====", "=m8=", "Zg==Zg==", "Zm 8", "Zm9\n", "Zm-_"})
    EXPECT_FALSE(from_base64(text).has_value()) << text;
}

}  // namespace
}  // namespace visq
