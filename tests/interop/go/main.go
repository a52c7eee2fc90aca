// Command greeter-interop is a greeter server that registers itself in etcd and a greeter client
// that finds servers there, both through the naming packages of the official etcd client.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	leaseSeconds = 10
	etcdTimeout  = 10 * time.Second
)

func main() {
	commands := map[string]func([]string) error{"server": runServer, "client": runClient}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: greeter-interop server|client [flags]; --help after either lists its flags")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "greeter-interop:", err)
		os.Exit(1)
	}
}

type greeter struct {
	pb.UnimplementedGreeterServer
	addr string
}

func (g *greeter) SayHello(ctx context.Context, request *pb.HelloRequest) (*pb.HelloReply, error) {
	// The header lets a caller that cannot see its peer's address know who answered.
	err := grpc.SetHeader(ctx, metadata.Pairs("x-served-by", g.addr))
	return &pb.HelloReply{Message: "Hello " + request.GetName()}, err
}

func runServer(args []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	etcdURL := flags.String("etcd", "http://127.0.0.1:2379", "etcd `URL`")
	service := flags.String("service", "greeter", "service `name` to register under")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to serve on, and to register")
	meta := flags.String("metadata", "", "Endpoint.Metadata as `JSON`")
	_ = flags.Parse(args)

	var endpoint endpoints.Endpoint
	if *meta != "" {
		// Raw JSON keeps the order of keys and the digits of numbers; AddEndpoint rejects invalid JSON.
		endpoint.Metadata = json.RawMessage(*meta)
	}
	// Signals are caught from the start, so that one during registration is not lost.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	endpoint.Addr = listener.Addr().String()
	server := grpc.NewServer()
	pb.RegisterGreeterServer(server, &greeter{addr: endpoint.Addr})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println("listening on", endpoint.Addr)

	etcd, err := clientv3.NewFromURL(*etcdURL)
	if err != nil {
		return err
	}
	defer etcd.Close()
	manager, err := endpoints.NewManager(etcd, *service)
	if err != nil {
		return err
	}
	key := *service + "/" + endpoint.Addr
	lease, kept, err := register(etcd, manager, key, endpoint)
	if err != nil {
		return err
	}
	fmt.Println("registered", key)

	for waiting := true; waiting; {
		select {
		case <-signals:
			waiting = false
		case err := <-served:
			return fmt.Errorf("serving ended: %w", err)
		case _, ok := <-kept:
			if !ok {
				// The naming package never registers again by itself; calls are still answered.
				fmt.Fprintln(os.Stderr, "greeter-interop: lease lost")
				kept = nil
			}
		}
	}

	// The endpoint goes before the listener does, so that clients stop choosing this server first.
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	if err = manager.DeleteEndpoint(ctx, key); err == nil {
		fmt.Println("deregistered")
		// The empty lease would expire anyway; revoking it leaves nothing behind for the next test.
		_, _ = etcd.Revoke(ctx, lease)
	}
	server.GracefulStop()
	fmt.Println("stopped")
	return err
}

// register writes the endpoint under a lease which is kept alive until the etcd client is closed.
func register(etcd *clientv3.Client, manager endpoints.Manager, key string, endpoint endpoints.Endpoint) (
	clientv3.LeaseID, <-chan *clientv3.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	lease, err := etcd.Grant(ctx, leaseSeconds)
	if err != nil {
		return 0, nil, err
	}
	if err := manager.AddEndpoint(ctx, key, endpoint, clientv3.WithLease(lease.ID)); err != nil {
		return 0, nil, err
	}
	kept, err := etcd.KeepAlive(context.Background(), lease.ID)
	return lease.ID, kept, err
}

func runClient(args []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	etcdURL := flags.String("etcd", "http://127.0.0.1:2379", "etcd `URL`")
	service := flags.String("service", "greeter", "service `name` to call")
	count := flags.Int("count", 1, "`number` of calls, one after another")
	rate := flags.Float64("rate", 0, "calls per second; 0 means without a pause")
	authority := flags.String("authority", "", "`host` to send as :authority instead of the service name")
	// The deadline cannot end a first call while etcd is down: the resolver reads etcd without one.
	timeout := flags.Duration("timeout", 5*time.Second, "deadline of each call")
	_ = flags.Parse(args)

	etcd, err := clientv3.NewFromURL(*etcdURL)
	if err != nil {
		return err
	}
	defer etcd.Close()
	builder, err := resolver.NewBuilder(etcd)
	if err != nil {
		return err
	}
	// Plain concatenation is right for a leading slash too: the resolver strips only the first one.
	options := []grpc.DialOption{
		grpc.WithResolvers(builder),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	conn, err := grpc.NewClient("etcd:///"+*service, options...)
	if err != nil {
		return err
	}
	defer conn.Close()

	client := pb.NewGreeterClient(conn)
	failed, start := 0, time.Now()
	for i := range *count {
		if *rate > 0 {
			// Paced from the start, so that the time taken by the calls does not lower the rate.
			time.Sleep(time.Until(start.Add(time.Duration(float64(i) / *rate * float64(time.Second)))))
		}
		if err := call(client, fmt.Sprintf("go-%d", i), *timeout); err != nil {
			failed++
			fmt.Printf("failed %s: %s\n", status.Code(err), status.Convert(err).Message())
		}
	}
	fmt.Printf("client: calls=%d failed=%d\n", *count, failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d calls failed", failed, *count)
	}
	return nil
}

func call(client pb.GreeterClient, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var server peer.Peer
	reply, err := client.SayHello(ctx, &pb.HelloRequest{Name: name}, grpc.Peer(&server))
	if err == nil {
		fmt.Printf("ok %s %s\n", server.Addr, reply.GetMessage())
	}
	return err
}
