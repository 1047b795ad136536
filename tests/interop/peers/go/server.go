package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A gate holds handlers until another call opens it; an ending is how the server saw a call end.
type board struct {
	sync.Mutex
	gates   map[string]chan struct{}
	endings map[string]string
}

var state = board{gates: map[string]chan struct{}{}, endings: map[string]string{}}

func (b *board) gate(name string) chan struct{} {
	b.Lock()
	defer b.Unlock()
	if b.gates[name] == nil {
		b.gates[name] = make(chan struct{})
	}
	return b.gates[name]
}

func (b *board) end(tag, how string) {
	b.Lock()
	defer b.Unlock()
	b.endings[tag] = how
}

func (b *board) ending(tag string) string {
	for i := 0; i < 100; i++ {
		b.Lock()
		how := b.endings[tag]
		b.Unlock()
		if how != "" {
			return how
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "unknown"
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(handle), grpc.MaxRecvMsgSize(1<<30), grpc.MaxSendMsgSize(1<<30))
	say(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	panic(server.Serve(listener))
}

func handle(_ interface{}, s grpc.ServerStream) error {
	instructions, _ := metadata.FromIncomingContext(s.Context())
	tag := first(instructions, "do-tag")
	err := answer(instructions, s)
	if tag != "" {
		if s.Context().Err() != nil {
			state.end(tag, "cancelled")
		} else {
			state.end(tag, "finished")
		}
	}
	return err
}

func answer(instructions metadata.MD, s grpc.ServerStream) error {
	if tag := first(instructions, "do-ending"); tag != "" {
		message := []byte(state.ending(tag))
		return s.SendMsg(&message)
	}
	if name := first(instructions, "do-open"); name != "" {
		close(state.gate(name))
	}
	received := sums{all: sha256.New()}
	_, deadline := s.Context().Deadline()
	entries := metadata.MD{}
	for key, values := range instructions {
		if strings.HasPrefix(key, "x-") {
			entries[key] = values
		}
	}
	bare := first(instructions, "do-bare") != ""
	if !bare {
		if err := s.SendHeader(entries); err != nil {
			return err
		}
	}
	trailers := func() {
		s.SetTrailer(metadata.Join(entries, metadata.Pairs("received-messages", received.String(), "has-deadline", strconv.FormatBool(deadline), "answer-bin", "\x00\xff\x80")))
	}
	if name := first(instructions, "do-gate"); name != "" {
		select {
		case <-state.gate(name):
		case <-s.Context().Done():
			return ended(s)
		}
	}
	send := func() error { return s.SendMsg(file(first(instructions, "do-answer"))) }
	if first(instructions, "do-early") == "" {
		for {
			var message []byte
			if err := s.RecvMsg(&message); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			received.add(message)
			if first(instructions, "do-each") != "" {
				if err := send(); err != nil {
					return err
				}
			}
		}
	}
	if !wait(s, number(instructions, "do-wait-ms", 0)) {
		return ended(s)
	}
	if !bare && first(instructions, "do-each") == "" && first(instructions, "do-early") == "" {
		for i := number(instructions, "do-count", 1); i > 0; i-- {
			if err := send(); err != nil {
				return err
			}
			if !wait(s, number(instructions, "do-pause-ms", 0)) {
				return ended(s)
			}
		}
	}
	trailers()
	if code := number(instructions, "do-status", 0); code != 0 {
		return status.Error(codes.Code(code), "details: 100% schlecht, ü and \n more")
	}
	return nil
}

// Ended is the status of a call whose context is done.
func ended(s grpc.ServerStream) error { return status.FromContextError(s.Context().Err()).Err() }

func wait(s grpc.ServerStream, ms int) bool {
	if ms == 0 {
		return s.Context().Err() == nil
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return true
	case <-s.Context().Done():
		return false
	}
}

func first(entries metadata.MD, key string) string {
	if values := entries.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func number(entries metadata.MD, key string, otherwise int) int {
	if value, err := strconv.Atoi(first(entries, key)); err == nil {
		return value
	}
	return otherwise
}

// Sums digest what was received: how many messages and bytes, and a hash of the hashes.
type sums struct {
	count, bytes int
	all          hash.Hash
}

func (s *sums) add(message []byte) {
	digest := sha256.Sum256(message)
	s.count, s.bytes = s.count+1, s.bytes+len(message)
	s.all.Write(digest[:])
}

func (s *sums) String() string { return fmt.Sprintf("%d:%d:%x", s.count, s.bytes, s.all.Sum(nil)[:6]) }
