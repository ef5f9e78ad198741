// A peer of `make bench-connect`: pion/ice with the timers that NetBird gives it.
//
// Arguments: ROLE(controlling|controlled) MODE(cold|known) STUN_URL TURN_URL USER PASSWORD.
// Lines of JSON on standard input ({"go": true}, {"signal": VALUE}) and output ({"ready": true},
// {"signal": VALUE}, {"connected": {...}}, {"failed": TEXT}); it ends with its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
)

// NetBird's: client/internal/peer/ice/agent.go.
const (
	keepalive    = 4 * time.Second
	disconnected = 6 * time.Second
	failed       = 6 * time.Second
	relayWait    = 2 * time.Second
)

type signal struct {
	Ufrag     string `json:"ufrag,omitempty"`
	Pwd       string `json:"pwd,omitempty"`
	Candidate string `json:"candidate,omitempty"`
}

type line struct {
	Go     bool    `json:"go"`
	Signal *signal `json:"signal"`
}

var output sync.Mutex

func tell(value map[string]any) {
	output.Lock()
	defer output.Unlock()
	text, _ := json.Marshal(value)
	fmt.Println(string(text))
}

func must(err error) {
	if err != nil {
		tell(map[string]any{"failed": err.Error()})
		os.Exit(1)
	}
}

func makeAgent(arguments []string) *ice.Agent {
	var urls []*stun.URI
	for _, text := range arguments[2:4] {
		url, err := stun.ParseURI(text)
		must(err)
		url.Username, url.Password = arguments[4], arguments[5]
		urls = append(urls, url)
	}
	k, d, f, r := keepalive, disconnected, failed, relayWait
	agent, err := ice.NewAgent(&ice.AgentConfig{
		Urls:                   urls,
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		NetworkTypes:           []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		CandidateTypes:         []ice.CandidateType{ice.CandidateTypeHost, ice.CandidateTypeServerReflexive, ice.CandidateTypeRelay},
		KeepaliveInterval:      &k,
		DisconnectedTimeout:    &d,
		FailedTimeout:          &f,
		RelayAcceptanceMinWait: &r,
	})
	must(err)
	return agent
}

func connect(agent *ice.Agent, isControlling bool, remote signal, began time.Time) {
	call := agent.Accept
	if isControlling {
		call = agent.Dial
	}
	_, err := call(context.Background(), remote.Ufrag, remote.Pwd)
	seconds := time.Since(began).Seconds()
	must(err)
	pair, err := agent.GetSelectedCandidatePair()
	must(err)
	tell(map[string]any{"connected": map[string]any{
		"seconds": seconds,
		"local":   pair.Local.Type().String(),
		"remote":  pair.Remote.Type().String(),
	}})
}

func main() {
	arguments := os.Args[1:]
	isControlling, isKnown := arguments[0] == "controlling", arguments[1] == "known"
	agent := makeAgent(arguments)
	gathered := make(chan struct{})
	var found []string
	must(agent.OnCandidate(func(candidate ice.Candidate) {
		switch {
		case candidate == nil:
			close(gathered)
		case isKnown:
			found = append(found, candidate.Marshal())
		default:
			tell(map[string]any{"signal": signal{Candidate: candidate.Marshal()}})
		}
	}))
	if isKnown {
		must(agent.GatherCandidates())
		<-gathered
	}
	var began time.Time
	lines := bufio.NewScanner(os.Stdin)
	tell(map[string]any{"ready": true})
	for lines.Scan() {
		var got line
		must(json.Unmarshal(lines.Bytes(), &got))
		switch {
		case got.Go:
			began = time.Now()
			ufrag, pwd, err := agent.GetLocalUserCredentials()
			must(err)
			tell(map[string]any{"signal": signal{Ufrag: ufrag, Pwd: pwd}})
			for _, text := range found {
				tell(map[string]any{"signal": signal{Candidate: text}})
			}
			if !isKnown {
				must(agent.GatherCandidates())
			}
		case got.Signal != nil && got.Signal.Candidate != "":
			candidate, err := ice.UnmarshalCandidate(got.Signal.Candidate)
			must(err)
			must(agent.AddRemoteCandidate(candidate))
		case got.Signal != nil:
			go connect(agent, isControlling, *got.Signal, began)
		}
	}
}
