/** Attempts to get out of a sealed build, or to leave something behind, on each sandbox method that this machine has. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { chmod, lstat, mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test, type TestContext } from 'node:test'
import { childrenOf } from '../../src/build/process-list.ts'
import { Builds, processesWith, SEALED_METHODS, uniqueSleep, until } from './builds.ts'

for (const method of SEALED_METHODS) {
  describe(`escape from ${method}`, () => {
    let builds: Builds
    before(async () => {
      builds = await Builds.open(SEALED_METHODS.filter((other) => other !== method))
    })
    after(() => builds[Symbol.asyncDispose]())

    const check = (what: string, body: (context: TestContext) => Promise<void>): void => {
      test(`escape from ${method}: ${what}`, async (context) => {
        if (builds.sandbox.method !== method) {
          const reason = builds.sandbox.reasons.find((line) => line.startsWith(`${method}:`))
          return context.skip(`this machine cannot seal with ${reason}`)
        }
        await body(context)
      })
    }
    /** Runs shell lines of which none may work; each that does says so. */
    const nothingOf = async (
      lines: readonly string[],
      more: Parameters<Builds['run']>[1] = {},
    ): Promise<void> => {
      const script = lines
        .map((line, at) => `( ${line} ) > /dev/null 2>&1 < /dev/null && echo "worked: ${at}"`)
        .join('\n')
      const ran = await builds.run(`${script}\necho end`, more)
      const worked = [...ran.stdout.matchAll(/worked: (\d+)/g)].map(([, at]) => lines[Number(at)])
      assert.deepEqual(worked, [])
      assert.match(ran.stdout, /end\n$/, ran.stderr)
    }

    check('an input cannot be changed by any of its names', async () => {
      const blob = join(builds.directory, `blob-${method}`)
      await writeFile(blob, 'blob')
      await chmod(blob, 0o666)
      const earlier = await stat(blob)
      const at = '/build/in/a'
      await nothingOf(
        [
          `exec 3< ${at}; echo x > /proc/self/fd/3`,
          `exec 3< ${at}; echo x > /dev/fd/3`,
          `echo x 1<> ${at}`,
          `truncate -s 0 ${at}`,
          `touch ${at}`,
          `chmod 777 ${at}`,
          `ln ${at} /build/out/hard`,
          `ln -P ${at} /build/work/hard`,
          `exec 3< ${at}; ln -L /proc/self/fd/3 /build/work/hard`,
          `perl -e 'open my $f, "<", "${at}"; ioctl $f, 0x40086602, my $flags = pack("l", 16) or exit 1'`,
          `echo x > /proc/1/root${at}`,
          `echo x > /proc/self/root${at}`,
          `mv ${at} ${at}.old`,
          `setfattr -n user.a -v b ${at}`,
        ],
        { inputs: [{ path: at, source: { kind: 'file', hostPath: blob } }] },
      )
      const now = await stat(blob)
      assert.equal(await readFile(blob, 'utf8'), 'blob')
      assert.deepEqual(
        [now.mode, now.mtimeMs, now.nlink, now.uid],
        [earlier.mode, earlier.mtimeMs, earlier.nlink, earlier.uid],
      )
    })

    check("another build's directory, memory and processes are out of reach", async () => {
      const mark = uniqueSleep()
      const neighbour = await builds.start(`echo secret > /build/work/secret; sleep ${mark}`)
      await until('it runs', async () => (await processesWith(mark)).length > 0)
      await nothingOf([
        `cat ${neighbour.directory}/work/secret`,
        `cat /proc/1/root${neighbour.directory}/work/secret`,
        `ls ${builds.directory}`,
        `cat /build/../${neighbour.directory}/work/secret`,
        `find / -xdev -name secret | grep -q .`,
        `grep -rs ${mark} /proc/[0-9]*/cmdline | grep -v grep | grep sleep`,
        `ipcs -m | grep -q 0x`,
      ])
      neighbour.build.cancel()
      await neighbour.build.outcome
    })

    check('who runs it can be neither signalled, traced nor read', async () => {
      const executor = childrenOf(process.pid).find((pid) =>
        readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`"${builds.directory}"`),
      )
      assert(executor !== undefined)
      await nothingOf([
        `kill -0 ${process.pid}`,
        `kill -0 ${executor}`,
        `perl -e 'exit(syscall(101, 16, ${process.pid}, 0, 0) == 0 ? 0 : 1)'`,
        ...(method === 'helper'
          ? [
              `perl -e 'exit(syscall(101, 16, 1, 0, 0) == 0 ? 0 : 1)'`,
              'cat /proc/1/environ | grep -q .',
              'cat /proc/1/mem',
              'ls /proc/1/root/',
              'ls -l /proc/1/fd/ | grep -q pipe',
            ]
          : []),
        'echo -1000 > /proc/self/oom_score_adj',
        'cat /proc/kcore | head -c 1 | grep -q .',
        'cat /proc/sysrq-trigger; echo b > /proc/sysrq-trigger',
        'echo x > /proc/sys/kernel/hostname',
        'echo x > /proc/self/attr/current',
        'date -s 2001-01-01',
        'nice -n -5 true 2>&1 | grep -q . && exit 1; test "$(nice -n -5 nice)" = -5',
      ])
    })

    check('no descriptor, terminal or control group of the host is there', async () => {
      const open = await builds.output(
        'cd /proc/self/fd; for fd in *; do readlink $fd || true; done',
      )
      for (const target of open.trim().split('\n'))
        assert.match(target, /^(?:\/dev\/null|pipe:|\/build\/|\/proc\/|socket:)|pipes/, open)
      await nothingOf([
        'exec 3<> /dev/tty',
        'ls /sys/fs/cgroup/*',
        'ls /dev/pts/0',
        'cat /dev/mem',
        'cat /dev/kvm',
        'mknod /build/out/disk b 8 0',
        'mknod /build/out/mem c 1 1',
      ])
    })

    check(
      'sockets of the host are out of reach: loopback, by file and by abstract name',
      async () => {
        const name = `mesh-escape-${process.pid}-${method}`
        const path = join(builds.directory, `${method}.sock`)
        const servers = [
          await listen({ path: `\0${name}` }),
          await listen({ path }),
          await listen({ port: 0, host: '127.0.0.1' }),
        ]
        try {
          const address = servers[2]?.address()
          assert(typeof address === 'object' && address !== null)
          const unix = (to: string): string =>
            `perl -e 'use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or exit 1; connect($s, pack_sockaddr_un(${to})) or exit 1'`
          const lines = [
            unix(`"\\0${name}"`),
            unix(`"${path}"`),
            `bash -c 'exec 3<>/dev/tcp/127.0.0.1/${address.port}'`,
          ]
          await nothingOf(lines)
          const control = await builds.run(lines[2] ?? '', { network: true })
          assert.deepEqual(control.outcome.end, { kind: 'exited', code: 0 }, 'it is there')
        } finally {
          for (const server of servers) server.close()
        }
      },
    )

    check('an output that is a link leads nowhere when it is taken over', async () => {
      const host = join(builds.directory, `host-${method}`)
      await mkdir(host, { mode: 0o700 })
      await writeFile(join(host, 'private'), 'private', { mode: 0o600 })
      const earlier = await lstat(join(host, 'private'))
      const ran = await builds.run(
        `ln -s ${host} /build/out/out; ln -s ${host}/private /build/out/file; mkdir /build/out/dir; ln -s /etc/shadow /build/out/dir/shadow; ln -s ../../../../../../etc /build/out/dir/up; ln -s loop /build/out/dir/loop`,
      )
      assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
      const now = await lstat(join(host, 'private'))
      assert.deepEqual(
        [now.mode, now.uid, now.ctimeMs],
        [earlier.mode, earlier.uid, earlier.ctimeMs],
      )
      assert.equal((await lstat(join(ran.directory, 'out/out'))).isSymbolicLink(), true)
    })

    check('nobody on the host runs what it leaves with another identity', async () => {
      const ran = await builds.run(
        `cp /bin/true /build/out/tool; chmod 6755 /build/out/tool; chmod 2755 /build/out; perl -e 'open my $f, ">", "/build/out/x"; chmod 04755, $f'; mkdir -m 2777 /build/out/d; true`,
      )
      for (const name of ['tool', 'x', 'd']) {
        const { mode, uid } = await lstat(join(ran.directory, 'out', name))
        assert.equal(uid, process.geteuid?.())
        assert.equal(mode & 0o6000, 0, name)
      }
    })

    check(
      'what flees by a double fork, a session of its own or a deaf ear dies with it',
      async () => {
        const mark = uniqueSleep()
        const { outcome } = await builds.run(
          `(setsid sh -c 'trap "" TERM HUP INT; sleep ${mark} & sleep ${mark}' &)
nohup sleep ${mark} > /dev/null 2>&1 &
perl -e 'fork and exit; use POSIX; setsid; fork and exit; chdir "/"; close STDOUT; exec "sleep", "${mark}"'
env -i setsid sleep ${mark} < /dev/null > /dev/null 2>&1 &
exit 0`,
        )
        assert.deepEqual(outcome.end, { kind: 'exited', code: 0 })
        assert.deepEqual(await processesWith(mark), [])
      },
    )

    check(
      'a fork bomb, a memory bomb and a flood at once leave the others alone',
      async (context) => {
        const { of, reasons } = builds.executor.controls
        if (of.processes === undefined || of.memory === undefined)
          return context.skip(reasons.join('; '))
        const others = ['a', 'b', 'c'].map((name) => builds.run(`sleep 0.3; echo ${name}`))
        const bombs = await Promise.all([
          builds.run('bomb() { bomb | bomb & }; bomb; sleep 100', { processesMax: 60 }),
          builds.run(`perl -e 'my @all; push @all, "x" x 1_000_000 while 1'`, {
            memoryLimitBytes: 64 * 2 ** 20,
          }),
          builds.run('yes'),
        ])
        const [forks, memory, flood] = bombs.map(({ outcome }) => outcome)
        assert.deepEqual(forks?.end, { kind: 'limit', limit: 'processes', value: 60 })
        assert.equal(memory?.memory?.isOut, true, JSON.stringify(memory))
        assert.deepEqual(flood?.end, { kind: 'limit', limit: 'log' })
        const said = await Promise.all(others)
        assert.deepEqual(
          said.map(({ stdout }) => stdout),
          ['a\n', 'b\n', 'c\n'],
        )
      },
    )
  })
}

async function listen(where: { path: string } | { port: number; host: string }): Promise<Server> {
  const server = createServer((socket) => socket.on('error', () => {}).end('hello')).listen(where)
  await new Promise((resolve) => server.once('listening', resolve))
  return server
}
