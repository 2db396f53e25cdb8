# Compiles a Go stack with what all of them share.
set -e
cp ../shared/*.go .
go mod tidy
go build -o blog .
