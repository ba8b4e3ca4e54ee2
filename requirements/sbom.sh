#!/bin/sh
# Lists what is installed for PYTHON: sbom.sh TOOLS PYTHON FOLDER writes sbom.cdx.json (CycloneDX) and licenses.csv.
# TOOLS is the bin/ of the environment that requirements/audit.txt is installed in.
set -eu
tools=$1 python=$2 folder=$3
mkdir -p "$folder"
"$tools/cyclonedx-py" environment "$python" --output-reproducible --spec-version 1.6 --output-format JSON \
  --output-file "$folder/sbom.cdx.json"
"$tools/pip-licenses" --python "$python" --format csv --with-urls --output-file "$folder/licenses.csv" > /dev/null
