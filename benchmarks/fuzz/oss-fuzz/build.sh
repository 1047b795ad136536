#!/bin/bash -eu
# Run by OSS-Fuzz in the checkout, in its builder: an executable for each target in $OUT, and a zip of its first cases.
# Targets are those of `make fuzz-atheris`, which are quick enough to be fed by coverage.
TARGETS=$(make --silent fuzzed)
FOLDER=benchmarks/fuzz/oss-fuzz
export PYTHONPATH=$PWD

# Fitting takes torch, and only building fits: packages are made without it. Of torch the build without CUDA will do.
pip3 install torch --index-url https://download.pytorch.org/whl/cpu
pip3 install '.[fit]' grpcio-reflection grpcio-tools h11 hyperframe

# What is in C gets the sanitizer and libFuzzer's counters. What mypyc compiles stays Python, which Atheris instruments.
for module in $(python3 -c 'import setup; print(*setup.IN_C)'); do
  package=$(python3 -c "import ${module%.*} as package; print(package.__path__[0])")
  # shellcheck disable=SC2046,SC2086 # flags, several of them
  $CC $CFLAGS $(python3 -c "import setup; print(*setup.IN_C['$module'][2])") -fPIC -shared \
    -I"$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
    "$(python3 -c "import setup; print(setup.IN_C['$module'][0])")" -o "$package/${module##*.}.abi3.so" -lm
done

# shellcheck disable=SC2086
python3 -m benchmarks.fuzz.prepare "$SRC/prepared" $TARGETS
for target in $TARGETS; do
  cp $FOLDER/fuzz_target.py "$SRC/fuzz_$target.py"
  compile_python_fuzzer "$SRC/fuzz_$target.py" --add-data "$SRC/prepared/fitted:fitted" --copy-metadata tocsin \
    --collect-all tocsin --collect-all tocsin_calibration --collect-all tocsin_detectors --collect-submodules benchmarks.fuzz \
    --exclude-module torch --exclude-module onnx --exclude-module spox --exclude-module sklearn --exclude-module pyarrow
  (cd "$SRC/prepared/cases/$target" && python3 -m zipfile -c "$OUT/fuzz_${target}_seed_corpus.zip" ./*)
done
