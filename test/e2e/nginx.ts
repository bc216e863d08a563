/** Debian's nginx with the configurations that we ship, for the tests of mirrors. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { freePort, until } from './meshes.ts'

const CONTRIB = join(import.meta.dirname, '../../contrib/nginx')

/** Why nginx cannot be tested here; false where it can. */
export const withoutNginx: string | false =
  spawnSync('nginx', ['-v']).error === undefined ? false : 'nginx is not installed'

interface Nginx extends AsyncDisposable {
  readonly url: string
}

/**
 * Starts two workers with a file of contrib/nginx in which each left text, which must be there, is replaced
 * by the right one. The port is put in by itself.
 */
export async function startNginx(
  directory: string,
  file: string,
  replacements: Readonly<Record<string, string>>,
): Promise<Nginx> {
  const place = mkdtempSync(join(directory, 'nginx-'))
  const port = await freePort()
  let text = readFileSync(join(CONTRIB, file), 'utf8')
  for (const [from, to] of Object.entries({
    'listen 8080;': `listen 127.0.0.1:${port};`,
    ...replacements,
  })) {
    assert(text.includes(from), `${file} has no ${from}`)
    text = text.replaceAll(from, to)
  }
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${place}/${kind};`)
    .join(' ')
  // gzip on, as a careless main configuration may have it.
  const main = `${process.getuid?.() === 0 ? 'user root;' : ''} worker_processes 2; daemon off;
pid ${place}/pid; error_log stderr; events {}
http { access_log off; gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; ${temporary}
${text} }
`
  const path = join(place, 'nginx.conf')
  writeFileSync(path, main)
  const nginx = spawn('nginx', ['-c', path, '-e', 'stderr'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let errors = ''
  nginx.stderr.setEncoding('utf8').on('data', (more: string) => (errors += more))
  const exited = once(nginx, 'exit')
  await until('nginx to listen', async () => {
    if (nginx.exitCode !== null) throw new Error(`nginx ended: ${errors}`)
    return (await accepts(port)) ? true : undefined
  })
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      // Not SIGKILL, which would leave its workers.
      nginx.kill('SIGTERM')
      await exited
      rmSync(place, { recursive: true, force: true })
    },
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
