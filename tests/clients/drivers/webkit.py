"""Shows one page in WebKitGTK, under Debian's own Python. Usage: webkit.py URL"""

import sys

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402  # after require_version

context = WebKit2.WebContext.new_ephemeral()
manager = context.get_website_data_manager()
manager.set_tls_errors_policy(WebKit2.TLSErrorsPolicy.IGNORE)
context.set_sandbox_enabled(False)
view = WebKit2.WebView.new_with_context(context)
view.get_settings().set_enable_write_console_messages_to_stdout(True)
window = Gtk.Window()
window.add(view)
window.show_all()
view.load_uri(sys.argv[1])
Gtk.main()
