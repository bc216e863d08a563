/** What is told of a node that has become ready: to a terminal a banner, else one line of the log. */
import type { Logger } from 'pino'
import type { Config } from '../config/config.ts'
import type { Resolution } from '../config/resolve-config.ts'
import type { Daemon } from '../daemon.ts'
import { packageVersion } from '../process/version.ts'

export function announce(
  { settings, file }: Resolution,
  config: Config,
  { ready, summary }: Daemon,
  { log, err }: { readonly log: Logger; readonly err: (text: string) => void },
): void {
  const { data, roles, parents } = config
  const version = packageVersion()
  if (config.log.format === 'json') {
    const { name, peerId, listen, http, socket } = ready
    log.info(
      { version, name, peerId, data, roles, parents, listen, http, socket, summary },
      'the node became ready',
    )
    return
  }
  const isDefault = settings.every(({ source }) => source === 'default')
  const isUsualData = settings.some(({ key, source }) => key === 'data' && source === 'default')
  const client = isUsualData ? 'mesh' : `mesh --data ${data}`
  const place = parents.length === 0 ? 'without a parent' : `with work from ${parents.join(' or ')}`
  err(
    [
      `mesh-node ${version}  node "${ready.name}"  data ${data}`,
      isDefault
        ? `  no configuration found: running as a single machine (${roles.join(', ')})`
        : `  roles     ${roles.join(', ')}, ${place}${file === undefined ? '' : `, as ${file} says`}`,
      ...summary.map((line) => `  ${line}`),
      `  peer id   ${ready.peerId}`,
      `  listening ${ready.listen.join(' ') || 'not for other nodes'}   ${ready.http === '' ? 'no http' : `http ${ready.http}/`}   socket ${ready.socket}`,
      `  ready     try:  ${client} run -- gcc --version`,
      '',
    ].join('\n'),
  )
}
