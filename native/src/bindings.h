#pragma once

#include <nanobind/nanobind.h>

namespace gpt2kit {

void bind_tokenizer(nanobind::module_& m);  // bindings_tokenizer.cpp

}  // namespace gpt2kit
