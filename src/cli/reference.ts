/** docs/cli.md: the help of every command, out of the table of commands. */
import { EXIT } from '../base/errors.ts'
import { COMMANDS } from './command-table.ts'
import { GLOBAL_OPTIONS, helpOf, optionLine } from './command.ts'

const EXIT_MEANINGS: readonly (readonly [number, string])[] = [
  [EXIT.ok, 'everything asked for was built or cached'],
  [EXIT.buildFailed, 'a build failed: a builder, a limit, a missing output, a wrong sha256'],
  [EXIT.usage, 'bad flag, configuration or derivation file'],
  [EXIT.notReproducible, 'outputs of several builders differ'],
  [EXIT.unsatisfiable, 'no node can build it (with `--no-wait`, or after the wait limit)'],
  [EXIT.notFound, 'no such request, job, node or blob'],
  [EXIT.cancelled, 'cancelled'],
  [EXIT.unavailable, 'no daemon, or the root cannot be reached: try again'],
  [EXIT.internal, 'a bug'],
  [EXIT.noSpace, 'a disk is full: try again'],
  [EXIT.temporary, 'the infrastructure failed: try again'],
  [EXIT.denied, 'not allowed'],
  [EXIT.configuration, 'the data was written by a newer version'],
]

export function cliMarkdown(): string {
  return `# The command line

Made from \`src/cli/command-table.ts\`; \`mesh COMMAND --help\` prints the same.

What a command gives (ids, paths, tables, JSON) goes to stdout; progress, hints and errors go to stderr.
Under \`--json\` the result is one line, the last on stdout; an error is
\`{"error": {"code", "message", "where"?, "hints"}}\` there. Any unique prefix of an id is accepted.

## Which daemon

\`--socket PATH\`, else \`--data DIR\`, else the variable \`MESH_SOCKET\`; without any of them
\`$XDG_DATA_HOME/mesh\` (\`~/.local/share/mesh\`), then \`/var/lib/mesh\`. What is named explicitly is never
passed over for another daemon, and none is ever started. \`version\`, \`explain\`, \`graph\` and \`--help\` need none.

\`\`\`text
${GLOBAL_OPTIONS.map(optionLine).join('\n')}
\`\`\`

Colours: \`--color\`, \`NO_COLOR\`, \`FORCE_COLOR\`, \`CLICOLOR_FORCE\`. Progress: \`--progress\` or \`MESH_PROGRESS\`.

## Exit status

${EXIT_MEANINGS.map(([code, meaning]) => `- **${code}**: ${meaning}`).join('\n')}

\`mesh run\` ends with the exit status of its command, or with 125 when mesh failed, 126 when the command
cannot be executed, 127 when it was not found, 128+N when signal N ended it.

${COMMANDS.map((command) => `## mesh ${command.name}\n\n\`\`\`text\n${helpOf(command).join('\n')}\n\`\`\`\n`).join('\n')}`
}
