// Command corpus prints what the official etcd client's endpoints.Manager lists of a target, as JSON: one line for
// each key, in order. A key that it passes over is not listed.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
)

type listed struct {
	Key      string `json:"key"`
	Addr     string `json:"addr"`
	Metadata any    `json:"metadata"`
}

func main() {
	etcdURL := flag.String("etcd", "http://127.0.0.1:2379", "etcd `URL`")
	target := flag.String("target", "corpus", "`name` of the service")
	flag.Parse()
	if err := list(*etcdURL, *target); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}

func list(etcdURL, target string) error {
	etcd, err := clientv3.NewFromURL(etcdURL)
	if err != nil {
		return err
	}
	defer etcd.Close()
	manager, err := endpoints.NewManager(etcd, target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := manager.List(ctx)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		line := new(bytes.Buffer)
		encoder := json.NewEncoder(line) // ends each value with a newline
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(listed{key, found[key].Addr, found[key].Metadata}); err != nil {
			return err
		}
		_, _ = os.Stdout.Write(line.Bytes())
	}
	return nil
}
