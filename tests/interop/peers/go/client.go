package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type call struct {
	Method       string      `json:"method"`
	Kind         string      `json:"kind"`
	Send         []string    `json:"send"`
	Metadata     [][2]string `json:"metadata"`
	TimeoutMs    int         `json:"timeout_ms"`
	Compress     bool        `json:"compress"`
	CancelAfter  int         `json:"cancel_after"`
	WaitForReady bool        `json:"wait_for_ready"`
}

type scenario struct {
	Target     string `json:"target"`
	Background []call `json:"background"`
	SettleMs   int    `json:"settle_ms"`
	Call       call   `json:"call"`
	Repeat     int    `json:"repeat"`
	Rate       int    `json:"rate"`
	Parallel   int    `json:"parallel"`
}

type observation struct {
	Messages []string    `json:"messages"`
	Code     int         `json:"code"`
	Text     string      `json:"text"`
	Initial  [][2]string `json:"initial"`
	Trailing [][2]string `json:"trailing"`
}

func init() { encoding.RegisterCodec(raw{}) }

func run(s scenario) interface{} {
	unlimited := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30))
	conn, err := grpc.Dial(s.Target, grpc.WithInsecure(), unlimited)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	read := make(chan struct{}) // closed when what is left unread is read
	background := make([]observation, len(s.Background))
	var unread sync.WaitGroup
	for i, c := range s.Background {
		i, c := i, c
		unread.Add(1)
		go func() {
			defer unread.Done()
			background[i] = makeCall(conn, c, read)
		}()
	}
	if len(s.Background) > 0 {
		time.Sleep(time.Duration(s.SettleMs) * time.Millisecond)
	}
	outcomes := repeat(conn, s)
	close(read)
	unread.Wait()
	return map[string]interface{}{"background": background, "outcomes": outcomes}
}

// Repeat makes the call as often as the scenario says, spread over its parallel workers, at its rate.
func repeat(conn *grpc.ClientConn, s scenario) []interface{} {
	var lock sync.Mutex
	counts := map[string]int{}
	next, begin := 0, time.Now()
	var workers sync.WaitGroup
	for w := 0; w < s.Parallel; w++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				lock.Lock()
				number := next
				next++
				lock.Unlock()
				if number >= s.Repeat {
					return
				}
				if s.Rate > 0 {
					time.Sleep(time.Until(begin.Add(time.Duration(number) * time.Second / time.Duration(s.Rate))))
				}
				line, _ := json.Marshal(makeCall(conn, s.Call, nil))
				lock.Lock()
				counts[string(line)]++
				lock.Unlock()
			}
		}()
	}
	workers.Wait()
	outcomes := []interface{}{}
	for line, count := range counts {
		outcomes = append(outcomes, []interface{}{json.RawMessage(line), count})
	}
	return outcomes
}

func makeCall(conn *grpc.ClientConn, c call, read chan struct{}) observation {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.TimeoutMs)*time.Millisecond)
	defer cancel()
	for _, pair := range c.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], decode(pair[0], pair[1]))
	}
	options := []grpc.CallOption{grpc.WaitForReady(c.WaitForReady)}
	if c.Compress {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	streams := grpc.StreamDesc{ServerStreams: c.Kind == "down" || c.Kind == "both", ClientStreams: c.Kind == "up" || c.Kind == "both"}
	observation := observation{Messages: []string{}, Initial: [][2]string{}, Trailing: [][2]string{}}
	stream, err := conn.NewStream(ctx, &streams, c.Method, options...)
	if err != nil {
		return finish(observation, err)
	}
	go func() {
		for _, name := range c.Send {
			if stream.SendMsg(file(name)) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	if read != nil {
		<-read
	}
	for err == nil {
		var message []byte
		if err = stream.RecvMsg(&message); err == nil {
			observation.Messages = append(observation.Messages, digest(message))
			if len(observation.Messages) == c.CancelAfter {
				cancel()
				for err == nil {
					err = stream.RecvMsg(&message)
				}
			}
			if !streams.ServerStreams {
				break
			}
		}
	}
	if header, failed := stream.Header(); failed == nil {
		observation.Initial = pairs(header)
	}
	observation.Trailing = pairs(stream.Trailer())
	return finish(observation, err)
}

func finish(observation observation, err error) observation {
	if err != nil && err != io.EOF {
		observation.Code, observation.Text = int(status.Code(err)), status.Convert(err).Message()
	}
	return observation
}

func digest(message []byte) string {
	return fmt.Sprintf("%d:%x", len(message), sha256.Sum256(message))[:24]
}

func decode(key, value string) string {
	if !strings.HasSuffix(key, "-bin") {
		return value
	}
	content, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		panic(err)
	}
	return string(content)
}

func pairs(entries metadata.MD) [][2]string {
	all := [][2]string{}
	for key, values := range entries {
		for _, value := range values {
			if strings.HasSuffix(key, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			all = append(all, [2]string{key, value})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i][0] < all[j][0] })
	return all
}
