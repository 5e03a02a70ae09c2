#pragma once

#include <nanobind/nanobind.h>

namespace gpt2kit {

void bind_tokenizer(nanobind::module_& m);  // bindings_tokenizer.cpp
void bind_engine(nanobind::module_& m);     // bindings_engine.cpp
void bind_roofline(nanobind::module_& m);   // bindings_roofline.cpp
void bind_weights(nanobind::module_& m);    // bindings_weights.cpp

}  // namespace gpt2kit
