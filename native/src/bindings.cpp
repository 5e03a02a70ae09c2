// The Python module gpt2kit._native. Only files named bindings*.cpp include nanobind; they check every
// argument that comes from Python and hand plain C++ to the rest.

#include "bindings.h"

#include <nanobind/nanobind.h>

NB_MODULE(_native, m) {
  m.doc() = "C++ core of gpt2kit: the tokenizer and the CPU engine.";
  gpt2kit::bind_tokenizer(m);
  gpt2kit::bind_engine(m);
  gpt2kit::bind_roofline(m);
  gpt2kit::bind_weights(m);
}
