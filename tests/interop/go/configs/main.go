// Command configs prints what grpc-go says of service configs, as JSON: one line for each document of a file of JSON
// lines, in order.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"     // registers least_request_experimental
	_ "google.golang.org/grpc/balancer/randomsubsetting" // registers random_subsetting_experimental
	_ "google.golang.org/grpc/balancer/ringhash"         // registers ring_hash_experimental
	"google.golang.org/grpc/credentials/insecure"
)

type document struct {
	ID       string `json:"id"`
	Document string `json:"document"`
}

type verdict struct {
	ID    string `json:"id"`
	Valid bool   `json:"valid"`
}

func main() {
	file := flag.String("file", "service_configs.jsonl", "`path` of the documents")
	flag.Parse()
	if err := judge(*file, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "configs:", err)
		os.Exit(1)
	}
}

func judge(path string, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines, verdicts := json.NewDecoder(file), json.NewEncoder(out)
	for {
		var next document
		if err := lines.Decode(&next); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := verdicts.Encode(verdict{next.ID, isValid(next.Document)}); err != nil {
			return err
		}
	}
}

// isValid tells whether a client takes the document. It connects to nothing: a client is idle until its first call.
func isValid(document string) bool {
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(document))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
