// Peer is a discv5 node of go-ethereum that obeys commands: one JSON object a line on standard
// input, one answer a line on standard output. `protocol.md` beside this folder names the commands.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/log"
	"github.com/ethereum/go-ethereum/p2p/discover"
	"github.com/ethereum/go-ethereum/p2p/enode"
)

const maxLine = 1 << 20 // bytes of one command

type command struct {
	ID        int      `json:"id"`
	Op        string   `json:"op"`
	Enr       string   `json:"enr"`
	Enrs      []string `json:"enrs"`
	Distances []uint   `json:"distances"`
	Protocol  string   `json:"protocol"`
	Payload   string   `json:"payload"`
	Target    string   `json:"target"`
	Count     int      `json:"count"`
}

type answer map[string]any

// node is one discv5 node and what it was made of.
type node struct {
	udp  *discover.UDPv5
	self *enode.LocalNode
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.Int("port", 0, "UDP port on 127.0.0.1; 0 lets the system choose")
	key := flag.String("key", "", "private key, 64 hex digits; drawn at random if left out")
	bootnodes := flag.String("bootnodes", "", "records, separated by commas")
	flag.Parse()
	log.SetDefault(log.NewLogger(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))

	private, err := loadKey(*key)
	if err != nil {
		return err
	}
	boot, err := parseAll(splitList(*bootnodes))
	if err != nil {
		return err
	}
	main, err := open(*port, private, boot)
	if err != nil {
		return err
	}
	defer main.udp.Close()
	main.udp.RegisterTalkHandler("echo", func(_ *enode.Node, _ *net.UDPAddr, data []byte) []byte {
		reversed := slices.Clone(data)
		slices.Reverse(reversed)
		return reversed
	})
	return serve(main)
}

func loadKey(text string) (*ecdsa.PrivateKey, error) {
	if text == "" {
		return crypto.GenerateKey()
	}
	return crypto.HexToECDSA(text)
}

func open(port int, private *ecdsa.PrivateKey, boot []*enode.Node) (*node, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil, err
	}
	database, err := enode.OpenDB("")
	if err != nil {
		return nil, err
	}
	self := enode.NewLocalNode(database, private)
	self.SetStaticIP(net.IPv4(127, 0, 0, 1))
	self.SetFallbackUDP(conn.LocalAddr().(*net.UDPAddr).Port)
	udp, err := discover.ListenV5(conn, self, discover.Config{PrivateKey: private, Bootnodes: boot})
	if err != nil {
		return nil, err
	}
	return &node{udp, self}, nil
}

// serve answers commands, many at once, until standard input ends.
func serve(main *node) error {
	var output sync.Mutex
	encoder := json.NewEncoder(os.Stdout)
	say := func(what answer) {
		output.Lock()
		defer output.Unlock()
		_ = encoder.Encode(what)
	}
	say(answer{"event": "ready", "enr": main.self.Node().String()})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		go func() {
			result, err := main.obey(c)
			if err != nil {
				result = answer{"error": err.Error()}
			}
			result["id"] = c.ID
			say(result)
		}()
	}
	return lines.Err()
}

func (n *node) obey(c command) (answer, error) {
	switch c.Op {
	case "ping":
		return n.ping(c)
	case "findnode":
		return n.findNode(c)
	case "talk":
		return n.talk(c)
	case "lookup":
		return n.lookup(c)
	case "add":
		return n.add(c)
	case "table":
		return answer{"enrs": texts(n.udp.AllNodes())}, nil
	case "record":
		return answer{"enr": n.self.Node().String()}, nil
	case "load":
		return n.load(c)
	case "spawn":
		return spawn(c.Count)
	}
	return nil, fmt.Errorf("unknown command %q", c.Op)
}

func (n *node) add(c command) (answer, error) {
	other, err := enode.Parse(enode.ValidSchemes, c.Enr)
	if err != nil {
		return nil, err
	}
	return answer{"added": n.udp.AddKnownNode(other)}, nil
}

func (n *node) ping(c command) (answer, error) {
	other, err := enode.Parse(enode.ValidSchemes, c.Enr)
	if err != nil {
		return nil, err
	}
	pong, err := n.udp.Ping(other)
	if err != nil {
		return nil, err
	}
	ip, _ := netip.AddrFromSlice(pong.ToIP)
	return answer{"seq": pong.ENRSeq, "ip": ip.Unmap().String(), "port": pong.ToPort}, nil
}

func (n *node) findNode(c command) (answer, error) {
	other, err := enode.Parse(enode.ValidSchemes, c.Enr)
	if err != nil {
		return nil, err
	}
	found, err := n.udp.Findnode(other, c.Distances)
	if err != nil {
		return nil, err
	}
	return answer{"enrs": texts(found)}, nil
}

func (n *node) talk(c command) (answer, error) {
	other, err := enode.Parse(enode.ValidSchemes, c.Enr)
	if err != nil {
		return nil, err
	}
	payload, err := hex.DecodeString(c.Payload)
	if err != nil {
		return nil, err
	}
	response, err := n.udp.TalkRequest(other, c.Protocol, payload)
	if err != nil {
		return nil, err
	}
	return answer{"payload": hex.EncodeToString(response)}, nil
}

func (n *node) lookup(c command) (answer, error) {
	target, err := enode.ParseID(c.Target)
	if err != nil {
		return nil, err
	}
	return answer{"enrs": texts(n.udp.Lookup(target))}, nil
}

// load sends FINDNODEs to all the nodes at once, one after the other to each.
func (n *node) load(c command) (answer, error) {
	others, err := parseAll(c.Enrs)
	if err != nil {
		return nil, err
	}
	if len(others) == 0 {
		return nil, errors.New("load without nodes")
	}
	type outcome struct{ answered, records int }
	outcomes := make(chan outcome, len(others))
	began := time.Now()
	for _, other := range others {
		go func() {
			var sum outcome
			for range c.Count / len(others) {
				if found, err := n.udp.Findnode(other, c.Distances); err == nil {
					sum.answered++
					sum.records += len(found)
				}
			}
			outcomes <- sum
		}()
	}
	var sum outcome
	for range others {
		one := <-outcomes
		sum.answered += one.answered
		sum.records += one.records
	}
	seconds := time.Since(began).Seconds()
	return answer{"seconds": seconds, "answered": sum.answered, "records": sum.records}, nil
}

// spawn opens further nodes that know nobody, to measure what an idle one costs.
func spawn(count int) (answer, error) {
	for range count {
		private, err := crypto.GenerateKey()
		if err != nil {
			return nil, err
		}
		if _, err := open(0, private, nil); err != nil {
			return nil, err
		}
	}
	return answer{"count": count}, nil
}

func parseAll(list []string) ([]*enode.Node, error) {
	nodes := make([]*enode.Node, 0, len(list))
	for _, text := range list {
		one, err := enode.Parse(enode.ValidSchemes, text)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, one)
	}
	return nodes, nil
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func texts(nodes []*enode.Node) []string {
	list := make([]string, 0, len(nodes))
	for _, one := range nodes {
		list = append(list, one.String())
	}
	return list
}
