/** The system calls that a sealed build is refused, on each ABI that the machine runs. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { findTool } from '../../src/build/tool-path.ts'
import { Builds } from './builds.ts'

const EXPECTED = {
  keyctl: 'ENOSYS',
  add_key: 'ENOSYS',
  bpf: 'EPERM',
  perf_event_open: 'EPERM',
  userfaultfd: 'ENOSYS',
  io_uring_setup: 'ENOSYS',
  mount: 'EPERM',
  open_tree: 'EPERM',
  init_module: 'EPERM',
  syslog: 'EPERM',
  setns: 'EPERM',
  'fchmod 4755': 'EPERM',
  'fchmodat 2755': 'EPERM',
  'fchmod 0755': 'done',
  'openat 4755': 'EPERM',
  'openat without O_CREAT': 'done',
  openat2: 'ENOSYS',
  'mknodat 4755': 'EPERM',
  fsetxattr: 'ENOTSUP',
  flistxattr: 'ENOTSUP',
  'socket unix': 'done',
  'socket inet': 'done',
  'socket route': 'done',
  'socket audit': 'EPROTONOSUPPORT',
  'socket alg': 'EAFNOSUPPORT',
  'socket vsock': 'EAFNOSUPPORT',
  'socket packet': 'EAFNOSUPPORT',
  socketpair: 'done',
  ptrace: 'done',
}
const EXPECTED_X86 = {
  'x32 getpid': 'ENOSYS',
  'i386 getpid': 'done',
  'i386 keyctl': 'ENOSYS',
  'i386 bpf': 'EPERM',
  'i386 fchmod 4755': 'EPERM',
  'i386 fchmod 0755': 'done',
  'i386 flistxattr': 'ENOTSUP',
  'i386 socket alg': 'EAFNOSUPPORT',
  'i386 socket unix': 'done',
  'i386 mount': 'EPERM',
}

for (const network of [false, true])
  test(`filter: a sealed build ${network ? 'with' : 'without'} network is refused what no build needs`, async (context) => {
    await using builds = await Builds.open()
    if ((await findTool('cc')) === undefined) return context.skip('no C compiler on this machine')
    if (builds.sandbox.isFiltered !== true)
      return context.skip(`no filter here: ${builds.sandbox.method}`)
    const hostPath = join(import.meta.dirname, 'forbidden-calls.c')
    const text = await builds.output('cc -O1 -o calls /build/in/calls.c && ./calls', {
      network,
      inputs: [{ path: '/build/in/calls.c', source: { kind: 'file', hostPath } }],
    })
    const answers = Object.fromEntries(
      text
        .trim()
        .split('\n')
        .map((line) => {
          const at = line.lastIndexOf(' ')
          return [line.slice(0, at), line.slice(at + 1)]
        }),
    )
    // ENOTSUP and EOPNOTSUPP are one number.
    for (const [name, answer] of Object.entries(answers))
      if (answer === 'EOPNOTSUPP') answers[name] = 'ENOTSUP'
    if (answers['i386 getpid'] === 'EFAULT' || answers['i386 getpid'] === 'ENOSYS')
      context.diagnostic('the kernel of this machine runs no 32-bit programs')
    assert.deepEqual(answers, process.arch === 'x64' ? { ...EXPECTED, ...EXPECTED_X86 } : EXPECTED)
  })

test('filter: what builds do every day goes on: archives, modes, copies with their attributes, sockets', async (context) => {
  await using builds = await Builds.open()
  if (builds.sandbox.isFiltered !== true)
    return context.skip(`no filter here: ${builds.sandbox.method}`)
  assert.equal(
    await builds.output(`mkdir d && echo x > d/f && chmod 1777 d && cp -a d e && tar cf a.tar e &&
rm -r e && tar xf a.tar && cat e/f && ls -l d > /dev/null && install -m 755 d/f g && mv g h &&
perl -e 'use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local => "s", Listen => 1) or die $!; print "ok\n"'`),
    'x\nok\n',
  )
})
