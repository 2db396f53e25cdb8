package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

var stub = os.Getenv("STUB_URL")

// get reads the whole answer, as a caller that decodes it does.
func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return do(request)
}

func push(ctx context.Context, line string) error {
	body := fmt.Sprintf(`{"streams": [{"values": [["0", %q]]}]}`, line)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, stub+"/loki/api/v1/push", strings.NewReader(body))
	if err != nil {
		return err
	}
	return do(request)
}

func do(request *http.Request) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func pricesEach(ctx context.Context, _ *http.Request) error {
	for id := 1; id <= 12; id++ {
		if err := get(ctx, fmt.Sprintf("%s/prices/%d", stub, id)); err != nil {
			return err
		}
	}
	return nil
}

func pricesBatch(ctx context.Context, _ *http.Request) error {
	return get(ctx, stub+"/prices?ids=1,2,3,4,5,6,7,8,9,10,11,12")
}

// handle registers a handler that answers with its error or "ok".
func handle(mux *http.ServeMux, pattern string, handler func(context.Context, *http.Request) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := handler(r.Context(), r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
}
