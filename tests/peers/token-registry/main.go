// Command token-registry is a container registry for tests: that of go-containerregistry, behind tokens as Docker Hub and
// others want them (the "Token Authentication Specification" of docker's distribution).
//
//	token-registry -user NAME -password PASSWORD [-life SECONDS] [-uses REQUESTS]
//
// It prints its address, and serves until its standard input ends. A token is for one repository and for what was asked for;
// it ends after so many seconds, or after so many requests that it was used for. What is asked for with it afterwards is
// refused in the middle of whatever was going on.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// A token: what it allows, and for how long.
type token struct {
	scopes []string
	ends   time.Time
	uses   int
}

type server struct {
	user, password string
	life           time.Duration
	uses           int
	inner          http.Handler

	mutex  sync.Mutex
	tokens map[string]*token
	given  int
}

// needed is the scope that a request needs: none for the root of the API.
func needed(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/blobs/", "/manifests/", "/tags/"} {
		if at := strings.LastIndex(path, part); at > 0 {
			action := "push"
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				action = "pull"
			}
			return "repository:" + path[:at] + ":" + action
		}
	}
	return ""
}

func (s *server) allows(text, scope string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	t := s.tokens[text]
	if t == nil || time.Now().After(t.ends) || t.uses == 0 {
		return false
	}
	t.uses--
	if scope == "" {
		return true
	}
	at := strings.LastIndex(scope, ":")
	for _, have := range t.scopes {
		end := strings.LastIndex(have, ":")
		if end > 0 && have[:end] == scope[:at] && strings.Contains(","+have[end+1:]+",", ","+scope[at+1:]+",") {
			return true
		}
	}
	return false
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/token":
		s.giveToken(w, r)
	case r.URL.Path == "/tokens":
		s.mutex.Lock()
		defer s.mutex.Unlock()
		fmt.Fprintln(w, s.given)
	default:
		scope := needed(r)
		if !s.allows(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), scope) {
			challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host)
			if scope != "" {
				if strings.HasSuffix(scope, ":push") {
					scope = strings.TrimSuffix(scope, "push") + "pull,push"
				}
				challenge += fmt.Sprintf(`,scope="%s"`, scope)
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"a token is needed"}]}`)
			return
		}
		s.inner.ServeHTTP(w, r)
	}
}

// giveToken answers with a token: to a name and a password, or as OAuth 2 has it to a refresh token that is the password.
func (s *server) giveToken(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	known := user == s.user && password == s.password
	if r.Method == http.MethodPost {
		known = r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == s.password
	}
	if !known {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if err := r.ParseForm(); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		log.Fatal(err)
	}
	text := hex.EncodeToString(raw)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.given++
	var scopes []string
	for _, scope := range r.Form["scope"] {
		scopes = append(scopes, strings.Fields(scope)...)
	}
	s.tokens[text] = &token{scopes, time.Now().Add(s.life), s.uses}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": text, "expires_in": 300})
}

func main() {
	s := &server{tokens: map[string]*token{}}
	flag.StringVar(&s.user, "user", "me", "name of the one user")
	flag.StringVar(&s.password, "password", "", "password of the user")
	seconds := flag.Float64("life", 300, "life of a token in seconds, whatever it is said to be")
	flag.IntVar(&s.uses, "uses", 1<<30, "how many requests a token is good for")
	flag.Parse()
	s.life = time.Duration(*seconds * float64(time.Second))
	s.inner = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, s))
}
