"""The programs: where each comes from and what it must do. A script that ends with status 0 has seen it do that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """`script` runs in Bash as the user `user`, who may use sudo, in an empty directory."""

    name: str
    does: str
    version: str
    """Prints it; the first line counts."""
    script: str
    debian: tuple[str, ...] = ()
    """Packages that apt installs in the sandbox."""
    npm: tuple[str, ...] = ()
    """Packages with versions. They are installed on this machine and copied to `node_modules`: npm's registry is often a private mirror."""


CATALOG = (
    Program(
        "chromium",
        "renders a page with a script, headless: its document and a picture",
        "chromium --version",
        r"""
        echo '<p id=a></p><script>a.textContent = [1, 2, 3].map((n) => n * 2).join("-")</script>' > page.html
        options="--headless --no-sandbox --disable-gpu --user-data-dir=$PWD/profile"
        see() { timeout 100 chromium $options "$@" "file://$PWD/page.html" > document 2> errors || { echo "status $?"; tail -n 5 errors; exit 1; }; }
        see --dump-dom
        grep -q 2-4-6 document || { echo 'the script has not run'; exit 1; }
        see --screenshot=page.png
        head -c 4 page.png | grep -q PNG
        """,
        debian=("chromium",),
    ),
    Program(
        "postgresql",
        "a cluster, pgbench with 4 clients, a crash, and all rows there after it",
        "/usr/lib/postgresql/*/bin/postgres --version",
        r"""
        bin=$(echo /usr/lib/postgresql/*/bin)
        $bin/initdb -D data -A trust > /dev/null
        start() { $bin/pg_ctl -D data -l log -o "-k $PWD -c listen_addresses=''" -w start > /dev/null; }
        start
        export PGHOST=$PWD
        $bin/createdb bench
        $bin/pgbench -i -s 2 bench > /dev/null 2>&1
        $bin/pgbench -c 4 -j 2 -T 5 bench | grep -E 'tps|failed'
        before=$($bin/psql -At bench -c 'select count(*), sum(delta) from pgbench_history')
        $bin/pg_ctl -D data -m immediate -w stop > /dev/null
        start
        [ "$($bin/psql -At bench -c 'select count(*), sum(delta) from pgbench_history')" = "$before" ]
        $bin/pg_ctl -D data -w stop > /dev/null
        """,
        debian=("postgresql", "postgresql-contrib"),
    ),
    Program(
        "redis",
        "an append-only file with fsync, redis-benchmark, SIGKILL, and the keys there after it",
        "redis-server --version",
        r"""
        start() {
            redis-server --port 0 --unixsocket "$PWD/s" --appendonly yes --appendfsync always --dir "$PWD" > log 2>&1 &
            until redis-cli -s s ping 2> /dev/null | grep -q PONG; do sleep 0.1; done
        }
        start
        redis-benchmark -s s -t set,lpush -n 5000 -r 100000 -q | tr '\r' '\n' | grep 'per second'
        redis-cli -s s set key kept > /dev/null
        redis-cli -s s bgrewriteaof > /dev/null
        sleep 1
        kill -9 %1; wait %1 || true
        start
        [ "$(redis-cli -s s get key)" = kept ]
        redis-cli -s s shutdown
        """,
        debian=("redis-server", "redis-tools"),
    ),
    Program(
        "java",
        "compiles a class and runs it: 8 threads, files, a garbage collection",
        "java -version 2>&1",
        r"""
        cat > Main.java <<'JAVA'
        import java.nio.file.*;
        import java.util.stream.*;
        public class Main {
            public static void main(String[] args) throws Exception {
                var pool = java.util.concurrent.Executors.newFixedThreadPool(8);
                var sums = IntStream.range(0, 64).mapToObj(n -> pool.submit(() -> LongStream.range(0, 100000).map(i -> i * n).sum())).toList();
                long sum = 0;
                for (var one : sums) sum += one.get();
                pool.shutdown();
                System.gc();
                Files.writeString(Path.of("out"), String.valueOf(sum));
                System.out.println(Files.readString(Path.of("out")));
            }
        }
        JAVA
        javac Main.java
        [ "$(java -Xmx256m Main)" = 10079899200000 ]
        """,
        debian=("openjdk-17-jdk-headless",),
    ),
    Program(
        "go",
        "builds a program of the standard library and its test, runs both",
        "go version",
        r"""
        cat > go.mod <<'GO'
module example.com/sum

go 1.19
GO
        cat > main.go <<'GO'
package main

import (
	"fmt"
	"net"
	"net/http"
	"sync"
)

func sum(n int) int {
	var all sync.WaitGroup
	parts := make(chan int, n)
	for i := 0; i < n; i++ {
		all.Add(1)
		go func(i int) { defer all.Done(); parts <- i }(i)
	}
	all.Wait()
	close(parts)
	total := 0
	for part := range parts {
		total += part
	}
	return total
}

func main() {
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, sum(1000)) }))
	answer, _ := http.Get("http://" + listener.Addr().String())
	var got int
	fmt.Fscan(answer.Body, &got)
	fmt.Println(got)
}
GO
        cat > main_test.go <<'GO'
package main

import "testing"

func TestSum(t *testing.T) {
	if sum(10) != 45 {
		t.Fail()
	}
}
GO
        export GOFLAGS=-mod=mod GOPROXY=off
        go build -o program .
        [ "$(./program)" = 499500 ]
        go test ./...
        """,
        debian=("golang-go",),
    ),
    Program(
        "cargo",
        "builds two crates of its own in a workspace with threads, runs their tests; no crate of a registry",
        "cargo --version",
        r"""
        cargo init --quiet --vcs none --name program .
        cargo new --quiet --vcs none --lib part
        printf 'part = { path = "part" }\n' >> Cargo.toml
        cat > part/src/lib.rs <<'RUST'
pub fn sum(n: u64) -> u64 {
    let parts: Vec<_> = (0..4).map(|k| std::thread::spawn(move || (0..n).filter(|i| i % 4 == k).sum::<u64>())).collect();
    parts.into_iter().map(|one| one.join().unwrap()).sum()
}
#[test]
fn sums() {
    assert_eq!(sum(10), 45);
}
RUST
        echo 'fn main() { println!("{}", part::sum(1000)); }' > src/main.rs
        [ "$(cargo run --quiet --offline --release)" = 499500 ]
        cargo test --quiet --offline -p part
        """,
        debian=("cargo",),
    ),
    Program(
        "ffmpeg",
        "makes a film with sound of 3 s in H.264 with several threads, and reads it back",
        "ffmpeg -version",
        r"""
        ffmpeg -v error -f lavfi -i testsrc=size=640x360:rate=25 -f lavfi -i sine=440 -t 3 -c:v libx264 -c:a aac film.mp4
        [ "$(ffprobe -v error -count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0 film.mp4)" = 75 ]
        ffmpeg -v error -i film.mp4 -vf scale=160:-2 -frames:v 1 frame.png
        head -c 4 frame.png | grep -q PNG
        """,
        debian=("ffmpeg",),
    ),
    Program(
        "node-workers",
        "4 worker threads with shared memory, a cluster of 2 processes behind one port",
        "node --version",
        r"""
        cat > workers.mjs <<'JS'
        import { Worker, isMainThread, workerData } from 'node:worker_threads'
        if (isMainThread) {
          const shared = new SharedArrayBuffer(4)
          const ends = [1, 2, 3, 4].map(() => new Promise((done) => new Worker(new URL(import.meta.url), { workerData: shared }).on('exit', done)))
          await Promise.all(ends)
          console.log(new Int32Array(shared)[0])
        } else {
          for (let i = 0; i < 10000; i++) Atomics.add(new Int32Array(workerData), 0, 1)
        }
        JS
        [ "$(node workers.mjs)" = 40000 ]
        cat > cluster.cjs <<'JS'
        const cluster = require('node:cluster')
        const http = require('node:http')
        if (cluster.isPrimary) {
          const seen = new Set()
          let listening = 0
          for (let i = 0; i < 2; i++) cluster.fork()
          cluster.on('listening', async (worker, { port }) => {
            if (++listening < 2) return
            for (let i = 0; i < 8; i++) seen.add(await (await fetch(`http://127.0.0.1:${port}`, { headers: { connection: 'close' } })).text())
            console.log(seen.size)
            process.exit(0)
          })
        } else {
          http.createServer((_, answer) => answer.end(String(process.pid))).listen(8123, '127.0.0.1')
        }
        JS
        [ "$(node cluster.cjs)" = 2 ]
        """,
    ),
    Program(
        "vite",
        "builds a page and serves it while a file changes",
        "node_modules/.bin/vite --version",
        r"""
        echo '{"type": "module"}' > package.json
        echo '<script type="module" src="/main.js"></script>' > index.html
        echo 'import text from "./text.js"; document.body.textContent = text' > main.js
        echo 'export default "first"' > text.js
        node_modules/.bin/vite build --logLevel warn
        grep -q first dist/assets/*.js
        node_modules/.bin/vite --port 5199 > log 2>&1 &
        until curl -sf localhost:5199/text.js | grep -q first; do sleep 0.2; done
        echo 'export default "second"' > text.js
        for _ in $(seq 50); do curl -sf localhost:5199/text.js | grep -q second && break; sleep 0.2; done
        curl -sf localhost:5199/text.js | grep -q second
        kill %1
        """,
        npm=("vite@7.1.12",),
    ),
    Program(
        "bun",
        "runs TypeScript, its test runner, its SQLite and a server",
        "node_modules/@oven/bun-linux-x64-baseline/bin/bun --version",
        r"""
        cat > sum.test.ts <<'TS'
        import { Database } from 'bun:sqlite'
        import { expect, test } from 'bun:test'
        test('a server and a database', async () => {
          const database = new Database('data.db')
          database.run('create table t (n integer)')
          for (let n = 0; n < 100; n++) database.run('insert into t values (?)', [n])
          using server = Bun.serve({ port: 0, fetch: () => Response.json(database.query('select sum(n) as sum from t').get()) })
          expect(await (await fetch(server.url)).json()).toEqual({ sum: 4950 })
        })
        TS
        timeout 60 node_modules/@oven/bun-linux-x64-baseline/bin/bun test > out 2>&1 || { tail -n 20 out; exit 1; }
        grep -q ' 1 pass' out
        """,
        npm=("@oven/bun-linux-x64-baseline@1.3.1",),
    ),
    Program(
        "gdb",
        "stops a program at a breakpoint, reads and changes its memory",
        "gdb --version",
        r"""
        printf 'int add(int a, int b) { return a + b; }\nint main(void) { return add(2, 3); }\n' > program.c
        gcc -g -O0 -o program program.c
        timeout 60 gdb -batch -ex 'break add' -ex run -ex 'print a + b' -ex 'set var b = 5' -ex finish -ex continue ./program > out 2>&1 || true
        grep -q '\$1 = 5' out && grep -q 'exited with code 07' out || { tail -n 5 out; exit 1; }
        """,
        debian=("gdb", "gcc", "libc6-dev"),
    ),
    Program(
        "strace",
        "follows a shell and its children",
        "strace --version",
        r"""
        timeout 60 strace -f -o out -e trace=execve,exit_group sh -c 'ls / | wc -l' > /dev/null
        grep -q 'execve("/usr/bin/wc"' out || grep -q 'execve("/bin/wc"' out
        """,
        debian=("strace",),
    ),
    Program(
        "sqlite",
        "a write-ahead log with two processes that write, and an integrity check",
        "sqlite3 --version",
        r"""
        sqlite3 data.db 'pragma journal_mode = wal; create table t (who integer, n integer)' > /dev/null
        write() { for n in $(seq 200); do echo ".timeout 10000"; echo "insert into t values ($1, $n);"; done | sqlite3 data.db; }
        write 1 & write 2
        wait %1
        [ "$(sqlite3 data.db 'select count(*), count(distinct who) from t')" = '400|2' ]
        [ "$(sqlite3 data.db 'pragma integrity_check')" = ok ]
        """,
        debian=("sqlite3",),
    ),
    Program(
        "inotify",
        "tells of files that are made, written, moved and removed, in new directories too",
        "dpkg-query -W inotify-tools",
        r"""
        mkdir watched
        timeout 30 inotifywait -q -m -r --format '%e %w%f' -o events watched &
        sleep 1
        mkdir watched/new; sleep 0.5
        echo a > watched/new/a; mv watched/new/a watched/b; rm watched/b
        for _ in $(seq 50); do grep -q 'DELETE watched/b' events && break; sleep 0.1; done
        kill %1
        for event in 'CREATE watched/new/a' 'CLOSE_WRITE,CLOSE watched/new/a' 'MOVED_FROM watched/new/a' 'MOVED_TO watched/b' 'DELETE watched/b'; do
            grep -q "$event" events || { echo "no $event"; exit 1; }
        done
        """,
        debian=("inotify-tools",),
    ),
    Program(
        "tmux",
        "two windows that are typed into and read; the session goes on after its client",
        "tmux -V",
        r"""
        tmux new-session -d -s work -x 100 -y 30
        tmux new-window -t work
        tmux send-keys -t work:1 'echo $((6 * 7)) in $TERM' Enter
        for _ in $(seq 50); do tmux capture-pane -p -t work:1 | grep -q '^42 in' && break; sleep 0.1; done
        tmux capture-pane -p -t work:1 | grep -q '^42 in'
        timeout 5 script -qc 'tmux attach -t work' /dev/null < /dev/null > /dev/null 2>&1 || true
        [ "$(tmux list-windows -t work | wc -l)" = 2 ]
        tmux kill-server
        """,
        debian=("tmux",),
    ),
    Program(
        "git-ssh",
        "clones from and pushes to a repository by a server of its own, with a key",
        "ssh -V 2>&1",
        r"""
        ssh-keygen -q -t ed25519 -N '' -f key
        ssh-keygen -q -t ed25519 -N '' -f host
        mkdir -p ~/.ssh && chmod 700 ~/.ssh && cp key.pub ~/.ssh/authorized_keys
        printf 'Port 2222\nHostKey %s\nPidFile %s\nUsePAM no\nStrictModes no\n' "$PWD/host" "$PWD/pid" > sshd_config
        /usr/sbin/sshd -f "$PWD/sshd_config" -E "$PWD/sshd.log"
        git init -q --bare -b main there.git
        export GIT_SSH_COMMAND="ssh -i $PWD/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        git clone -q "ssh://user@127.0.0.1:2222$PWD/there.git" here 2> /dev/null || { cat sshd.log; exit 1; }
        cd here
        head -c 3000000 /dev/urandom > data
        git add data
        git -c user.name=a -c user.email=a@example.com commit -qm first
        git push -q origin HEAD:main
        [ "$(git -C ../there.git rev-parse main)" = "$(git rev-parse HEAD)" ]
        kill "$(cat ../pid)"
        """,
        debian=("openssh-server", "openssh-client", "git"),
    ),
)
BY_NAME = {program.name: program for program in CATALOG}
