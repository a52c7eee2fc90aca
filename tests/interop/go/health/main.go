// Command health-interop is a greeter server beside grpc-go's health service. SIGUSR1 makes that
// say NOT_SERVING, and SIGUSR2 SERVING again.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

type greeter struct {
	pb.UnimplementedGreeterServer
	calls atomic.Int64
	last  atomic.Int64 // when the last call began, in ns since start
	start time.Time
}

func (g *greeter) SayHello(_ context.Context, request *pb.HelloRequest) (*pb.HelloReply, error) {
	g.calls.Add(1)
	g.last.Store(int64(time.Since(g.start)))
	return &pb.HelloReply{Message: "Hello " + request.GetName()}, nil
}

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "health-interop:", err)
		os.Exit(1)
	}
	greeter := &greeter{start: time.Now()}
	checks := health.NewServer()
	checks.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_SERVING)
	server := grpc.NewServer()
	pb.RegisterGreeterServer(server, greeter)
	healthpb.RegisterHealthServer(server, checks)
	go func() {
		var stopped int64
		for wanted := range signals {
			if wanted == syscall.SIGUSR1 {
				stopped = int64(time.Since(greeter.start))
				checks.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_NOT_SERVING)
				continue
			}
			// The last call before that comes out as 0: none began after.
			after := max(0, greeter.last.Load()-stopped)
			fmt.Printf("calls %d, the last one began %.2f ms after NOT_SERVING\n", greeter.calls.Load(), float64(after)/1e6)
			checks.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_SERVING)
		}
	}()
	fmt.Println("listening on", listener.Addr())
	if err := server.Serve(listener); err != nil {
		fmt.Fprintln(os.Stderr, "health-interop:", err)
		os.Exit(1)
	}
}
