/** A stock nginx that serves a directory: the peer of the benches that move bytes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { run, until } from '../scripts/cluster.ts'

/** Its modules keep bodies in these; under its own directory it needs neither root nor an installation. */
const TEMPORARY = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']

/** Undefined where it is not installed. */
export async function findNginx(): Promise<string | undefined> {
  const { code, stdout } = await run('/bin/sh', ['-c', 'PATH=$PATH:/usr/sbin command -v nginx'])
  return code === 0 ? stdout.trim() : undefined
}

export interface Nginx extends AsyncDisposable {
  readonly url: string
}

/** Resolves when it answers. `directory` is what it serves, and must be readable for everybody. */
export async function startNginx(options: {
  readonly program: string
  readonly directory: string
  /** For its configuration and its logs. */
  readonly scratch: string
  readonly address?: string
  /** Makes the command after it run elsewhere. */
  readonly within?: readonly string[]
}): Promise<Nginx> {
  const { program, directory, scratch, address = '127.0.0.1', within = [] } = options
  const port = await freePort()
  await mkdir(scratch, { recursive: true })
  await writeFile(
    join(scratch, 'nginx.conf'),
    `daemon off; pid ${scratch}/nginx.pid; user root;
    events {}
    http {
      access_log off; sendfile on; keepalive_requests 100000;
      ${TEMPORARY.map((what) => `${what}_temp_path ${scratch}/temporary;`).join(' ')}
      server { listen ${address}:${port}; root ${directory}; }
    }\n`,
  )
  const [command = program, ...args] = [
    ...within,
    ...[program, '-c', join(scratch, 'nginx.conf'), '-p', scratch, '-e', `${scratch}/error.log`],
  ]
  const server = spawn(command, args, { stdio: 'ignore' })
  const exited = once(server, 'exit')
  const url = `http://${address}:${port}`
  const [probe, ...probeArgs] = [...within, 'curl', '-s', '-o', '/dev/null', url]
  await until('nginx', async () => ((await run(probe, probeArgs)).code === 0 ? true : undefined))
  return {
    url,
    async [Symbol.asyncDispose]() {
      server.kill('SIGTERM')
      await exited
    },
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  if (address === null || typeof address === 'string') throw new Error('a TCP server has a port')
  return address.port
}
