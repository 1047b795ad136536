// A gRPC client or server in Go: `peer client FOLDER` or `peer server FOLDER`. tests/interop/protocol.py has the line
// protocol.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// A raw codec leaves messages as they are; it takes protobuf's name, and with it protobuf's place.
type raw struct{}

func (raw) Name() string                          { return "proto" }
func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = data
	return nil
}

var folder string

func file(name string) *[]byte {
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		panic(err)
	}
	return &content
}

func say(v interface{}) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func main() {
	folder = os.Args[2]
	if os.Args[1] == "server" {
		serve()
		return
	}
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var s scenario
		if err := json.Unmarshal(line, &s); err != nil {
			panic(err)
		}
		say(run(s))
	}
}
