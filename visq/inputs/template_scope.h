// Internal to the chat template: what names mean at a place of the template.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "visq/inputs/template_value.h"

namespace visq::jinja {

class Scope {
 public:
  explicit Scope(std::shared_ptr<Scope> outer = nullptr) : outer_(std::move(outer)) {}

  void set(const std::string& name, Value value) {
    if (Value* known = find_here(name)) {
      *known = std::move(value);
    } else {
      variables_.emplace_back(name, std::move(value));
    }
  }

  /// In this scope or one around it; null when nowhere.
  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope; scope = scope->outer_.get())
      if (const Value* value = const_cast<Scope*>(scope)->find_here(name)) return value;
    return nullptr;
  }

  void clear() { variables_.clear(); }

 private:
  Value* find_here(std::string_view name) {
    for (auto& [known, value] : variables_)
      if (known == name) return &value;
    return nullptr;
  }

  std::shared_ptr<Scope> outer_;
  std::vector<std::pair<std::string, Value>> variables_;
};

/// A scope inside another one. At its end its names are forgotten, as in Jinja: a macro refers to the scope
/// that holds it, and would keep it alive for ever.
class ScopeGuard {
 public:
  explicit ScopeGuard(std::shared_ptr<Scope> outer) : scope_(std::make_shared<Scope>(std::move(outer))) {}
  ~ScopeGuard() { scope_->clear(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;
  const std::shared_ptr<Scope>& operator*() const { return scope_; }
  Scope* operator->() const { return scope_.get(); }

 private:
  std::shared_ptr<Scope> scope_;
};

}  // namespace visq::jinja
